// SPDX-License-Identifier: GPL-2.0
/*
 * The importer devices, which differ in their DMA constraints.
 */
#include <linux/dma-mapping.h>
#include <linux/err.h>
#include <linux/mod_devicetable.h>
#include <linux/platform_device.h>

#include "internal.h"

static const struct ref_importer {
	unsigned int dma_bits;
	unsigned int max_seg_size;
	unsigned int max_segments;	/* not a DMA parameter of the core */
} importers[DMABUF_REF_NR_IMPORTERS] = {
	[DMABUF_REF_IMP64] = { 64, UINT_MAX, UINT_MAX },
	[DMABUF_REF_IMP32] = { 32, UINT_MAX, UINT_MAX },
	[DMABUF_REF_CONTIG] = { 64, UINT_MAX, 1 },
	[DMABUF_REF_SEG] = { 64, 64 << 10, 4 },
};

static const struct platform_device_id importer_ids[] = {
	{ "dmabuf-ref-imp64", DMABUF_REF_IMP64 },
	{ "dmabuf-ref-imp32", DMABUF_REF_IMP32 },
	{ "dmabuf-ref-contig", DMABUF_REF_CONTIG },
	{ "dmabuf-ref-seg", DMABUF_REF_SEG },
	{ }
};

static struct platform_device *importer_devices[DMABUF_REF_NR_IMPORTERS];

static const struct ref_importer *importer_of(struct platform_device *pdev)
{
	return &importers[platform_get_device_id(pdev)->driver_data];
}

static int importer_probe(struct platform_device *pdev)
{
	const struct ref_importer *importer = importer_of(pdev);

	dma_set_max_seg_size(&pdev->dev, importer->max_seg_size);
	return dma_set_mask_and_coherent(&pdev->dev,
					 DMA_BIT_MASK(importer->dma_bits));
}

static struct platform_driver importer_driver = {
	.probe = importer_probe,
	.id_table = importer_ids,
	.driver = {
		.name = "dmabuf-ref-importer",
		/* An attachment must not lose its driver under way. */
		.suppress_bind_attrs = true,
		.probe_type = PROBE_FORCE_SYNCHRONOUS,
	},
};

void ref_importers_unregister(void)
{
	int i;

	for (i = 0; i < DMABUF_REF_NR_IMPORTERS; i++)
		platform_device_unregister(importer_devices[i]);
	platform_driver_unregister(&importer_driver);
}

int ref_importers_register(void)
{
	const struct platform_device_id *id;
	struct platform_device *pdev;
	int ret;

	ret = platform_driver_register(&importer_driver);
	if (ret)
		return ret;

	for (id = importer_ids; id->name[0]; id++) {
		pdev = platform_device_register_simple(id->name,
						       PLATFORM_DEVID_NONE,
						       NULL, 0);
		if (IS_ERR(pdev)) {
			ret = PTR_ERR(pdev);
			goto err_unregister;
		}
		importer_devices[id->driver_data] = pdev;
		if (!pdev->dev.driver) {
			ret = -ENODEV;
			goto err_unregister;
		}
	}
	return 0;

err_unregister:
	ref_importers_unregister();
	return ret;
}

struct device *ref_importer_device(u32 importer)
{
	return &importer_devices[importer]->dev;
}

/**
 * ref_importer_max_segments - how many segments a device takes in one mapping
 * @dev: any device; only this module's have a limit
 */
unsigned int ref_importer_max_segments(struct device *dev)
{
	if (dev->driver != &importer_driver.driver)
		return UINT_MAX;
	return importer_of(to_platform_device(dev))->max_segments;
}
